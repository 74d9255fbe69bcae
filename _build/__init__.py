"""What setup.py builds besides the extension modules."""
