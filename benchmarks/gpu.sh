#!/usr/bin/env bash
# A bare CUDA machine (torch, transformers, PEFT, accelerate, triton; no network) to the figures of gpu_training.py, in two
# calls that end within six minutes each, whatever happens:
#
#     benchmarks/gpu.sh WHEELS 1b     # pytest -m gpu, then 1 B
#     benchmarks/gpu.sh WHEELS 8b     # 8 B
#     benchmarks/gpu.sh WHEELS 1b --device cpu --shape toy --steps 3 --batch 2 --tokens 32     # that it works, no more
#
# Fill WHEELS where there is a network:
#
#     uv build --all-packages --wheel --no-sources --out-dir WHEELS
#     pip download --no-deps --dest WHEELS click orjson pydantic pydantic-core pydantic-settings python-dotenv \
#       typing-inspection annotated-types structlog tomlkit trl datasets dill multiprocess xxhash liger-kernel gguf \
#       py3langid nvidia-ml-py threadpoolctl ml-dtypes pytest pytest-timeout pytest-xdist pluggy iniconfig execnet
set -u
wheels="$(cd "$1" && pwd)" || exit 1
part="${2:?1b or 8b}"
shift 2
cd "$(dirname "$0")/.." || exit 1
python="${PYTHON:-python3}"
whole=350 # seconds: what is begun later is killed before six minutes are over
left() { echo $((whole - SECONDS)); }
within() { # seconds command…: the command, killed when its time or that of the whole is over
  local most="$1"
  shift
  [ "$(left)" -lt "$most" ] && most="$(left)"
  [ "$most" -lt 5 ] && echo "no time is left for: $*" && return 124
  timeout --kill-after=3 "$most" "$@"
}

site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
# what the machine has stays in use: a wheel of something that is there would hide a build made for its card
within 60 "$python" - "$wheels" "$site" <<'PY' || exit 1
import importlib.metadata, pathlib, subprocess, sys
folder, site = map(pathlib.Path, sys.argv[1:])
have = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
wanted = []
for wheel in sorted(folder.glob("*.whl")):
    name = wheel.name.split("-")[0].lower().replace("_", "-")
    if name.startswith("bp-") or name not in have:
        wanted.append(str(wheel))
command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
raise SystemExit(subprocess.call(command + wanted) if wanted else 0)
PY
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
within 30 "$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no card")'

case "$part" in
1b)
  echo "== pytest -m gpu (after $SECONDS s)"
  within 150 "$python" -m pytest -m gpu -n 0 --timeout 100 -p no:cacheprovider tests/core/gpu
  shape=(--shape llama-3.2-1b --deadline 60)
  ;;
8b) shape=(--shape llama-3.1-8b --batch 4 --deadline 100) ;;
*) echo "1b or 8b, not $part" >&2 && exit 1 ;;
esac
case " $* " in *" --shape "*) shape=(--deadline 100) ;; esac
echo "== gpu_training.py ${shape[*]} $* (after $SECONDS s)"
within 350 "$python" benchmarks/gpu_training.py "${shape[@]}" --budget "$(($(left) - 8))" "$@"
echo "== done after $SECONDS s"
