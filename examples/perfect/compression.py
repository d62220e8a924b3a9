"""A submission with all tasks of compression solved, in another style than the reference's."""
