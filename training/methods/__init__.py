"""The training methods: gradient sieves and their schedules, structured dropout, and masks of weights."""
