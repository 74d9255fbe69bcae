"""What tracking costs, measured: boots of guests under the monitor at EL2."""
