"""What goes on elsewhere, as it is looked at from here: jobs, logs, runs, and how they are stopped."""
