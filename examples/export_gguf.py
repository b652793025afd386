"""An adapter to a GGUF file that was read back: `python export_gguf.py output/RUN/adapter`."""

import sys

from bp_export import export

result = export(sys.argv[1], format="gguf", quantization="q8_0")
print(result.path, "is not yet checked for:", result.unchecked)
