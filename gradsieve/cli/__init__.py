"""The command line of gradsieve, a verb a file."""
