"""From a board and an engine to a bitstream and a report, with tools that are installed as wheels."""
