"""Who visits when, what a visit does, and how updates become the next global model: control, without Ray, disk or
clock."""
