"""Metrics of training in MLflow. `mlflow_run`: what jobs and the SDK share. `runs`: the stages of a finished run."""
