"""Load generation, trace replay and the benchmarks behind `semipd bench`."""
