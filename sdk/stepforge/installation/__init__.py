"""What is installed here, and what of it makes a job another job."""
