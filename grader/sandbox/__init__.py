"""The confined side of grading: the zygote, its workers, what they may do, and the trusted process's handle on them."""
