"""From a recipe or a spec of one's own to a job that SageMaker takes."""
