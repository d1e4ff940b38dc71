"""Arrays in, arrays out: the computations that are worth writing once; none knows a type of fjx."""
