"""Many trainings: their settings, where they run, and how they compare."""
