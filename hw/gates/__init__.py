"""From tape to sieved rows: gate gradients, the sieve, row bitmaps, and the state between time steps."""
