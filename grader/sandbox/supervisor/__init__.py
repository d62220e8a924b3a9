"""The trusted process's handles on zygote and worker, the choice of layers, and the self-test. Knows no reference and no test."""
