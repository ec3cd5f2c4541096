"""What people see: progress, reports, pictures; JSON lines where nobody sits at a terminal."""
