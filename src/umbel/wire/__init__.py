"""The only place that knows Celery's names and byte layouts."""
