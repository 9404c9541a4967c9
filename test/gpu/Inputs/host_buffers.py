"""The host's stack holds nothing but the parameters of launches: words of 64 bits."""
import re
import sys

host = re.search(r"llvm\.func @moe_function_main.*?\n  }\n", open(sys.argv[1]).read(), re.S)
host = host or re.search(r"llvm\.func internal @moe_function_main.*?\n  }\n", open(sys.argv[1]).read(), re.S)
found = re.findall(r"llvm\.alloca .*", host.group(0))
others = [line for line in found if not re.search(r"x i64", line)]
print("\n".join(others) or f"{len(found)} places for parameters")
sys.exit(bool(others) or not found)
