"""What VISSL sees of this package: losses, hooks, trunk, transform and settings.

`registration.arm()` joins all of it to the host; `settings` is the only reader of cfg,
`task_view` the only reach into a task.
"""
