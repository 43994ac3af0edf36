"""What a training leaves for people: its result as a file, and its page."""
