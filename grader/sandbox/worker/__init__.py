"""What runs confined: the zygote, its workers, and what confines them. Knows no reference, no test, and not the run's seed."""
