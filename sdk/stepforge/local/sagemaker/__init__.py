"""SageMaker on this machine: training jobs, model packages, models and endpoints, on SQLite, folders and processes."""
