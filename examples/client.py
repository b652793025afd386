"""Ask a model that is served: `backprop serve RUN`, then `python client.py http://127.0.0.1:8000/v1 "Who are you?"`.

The web UI answers the same calls; any client of OpenAI's API does too.
"""

import json
import sys
import urllib.request

address, prompt = sys.argv[1:]
with urllib.request.urlopen(f"{address}/models") as reply:
    model = json.load(reply)["data"][0]["id"]
asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}
request = urllib.request.Request(
    f"{address}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
)
with urllib.request.urlopen(request) as reply:
    print(json.load(reply)["choices"][0]["message"]["content"])
