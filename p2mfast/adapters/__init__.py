"""p2mfast inside the emulators of others, a package an emulator."""
