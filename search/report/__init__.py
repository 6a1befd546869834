"""What people look at: one page that shows a run, made to be sent on."""
