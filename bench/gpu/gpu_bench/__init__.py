"""What a GPU is to say, in parts that are run once each: see docs/benchmarks-gpu.md. No part of the product imports this."""
