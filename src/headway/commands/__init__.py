"""What `python -m headway` does; nothing else imports it."""
