"""Tables seen from outside of their app: read, backed up, brought back."""
