"""Pages and REST API: what is clicked. Like `cli` it asks `operations`, and has no logic of its
own."""
