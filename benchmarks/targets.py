"""What compiled layers are meant to reach, cold weights, router included (docs/performance.md). `./run bench --check` measures and compares."""

# Share of the roofline, f32, by number of tokens.
SHARES = {1: 0.93, 16: 0.85, 128: 0.80, 512: 0.84}
# At 128 tokens, where experts have 10 to 20 rows in the mean.
FEW_ROWS, SHARE_OF_FEW_ROWS = (10, 20), 0.76
# Times of the best peer as a multiple of ours: no cell whose 95 % interval lies below, and the geometric mean from 16 tokens on.
LEAST_AGAINST_PEER, MEAN_AGAINST_PEER, MEAN_FROM_TOKENS = 0.97, 1.4, 16
# Times of f32 as a multiple of those of bf16, from so many tokens on; with AMX more.
BF16 = {1: 1.8, 16: 1.6, 64: 0.95}
BF16_WITH_AMX = {512: 3.0}
# Share with skewed routing as a part of that with uniform routing.
SKEWED = 0.83
# Times beside a process that spins on one of two cores, as a multiple of the undisturbed median.
DISTURBED = {"median": 2.2, "p90": 3.0}
# By how much the share may fall from one number of tokens to the next.
FALL = 0.10
# No engine can be above the machine's limits: then they were measured too low.
MOST_SHARE = 1.03
# Seconds to compile a layer with next to no weights.
COMPILE_SECONDS = 1.0

# Quantised experts: (format, numerics, tokens): share of the roofline.
QUANTIZED_SHARES = {("int8", "fast", 1): 0.92, ("int4", "fast", 1): 0.88, ("int8", "exact", 1): 0.85, ("int4", "exact", 1): 0.74,
                    ("mxfp4", "exact", 1): 0.70, ("int8", "fast", 512): 0.70, ("int4", "fast", 512): 0.60}
# Times of onnxruntime as a multiple of ours.
QUANTIZED_AGAINST_PEER = {("int4", "exact", 1): 2.0, ("int4", "fast", 1): 2.5, ("int8", "fast", 512): 3.0}
