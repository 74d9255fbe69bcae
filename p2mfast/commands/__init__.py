"""What the command line does, a command a file: DESCRIPTION, add_arguments and run."""
