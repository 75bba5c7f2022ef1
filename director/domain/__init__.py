"""What the director decides, as pure functions of what they are given: no I/O, no clock, no random numbers."""
