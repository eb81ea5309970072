#!/usr/bin/env bash
# Builds the container image and says how large it is: with docker where its daemon answers, else with Debian's buildah.
#
#   scripts/image.sh           build wa-worker:latest
#   scripts/image.sh sizes     what in it is large
#   scripts/image.sh demo      run `wa-worker demo` in it, as the image's own user
#
# Without docker it needs root, and `apt-get install buildah debootstrap`. There it makes the base image itself, from
# Debian's packages, the first time (TAG=… BASE_RELEASE=… change the names).
set -euo pipefail
cd "$(dirname "$0")/.."

TAG=${TAG:-wa-worker:latest}
BASE_RELEASE=${BASE_RELEASE:-bookworm}
BASE=debian:$BASE_RELEASE-slim
BUNDLE=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}
BUNDLE_INSIDE=/run/build-ca.crt

have_docker() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

need() {
  local program
  for program; do
    command -v "$program" >/dev/null && continue
    echo "image: $program is not here. Install docker, or on Debian: apt-get install buildah debootstrap" >&2
    exit 1
  done
}

# The official slim image is a minimal Debian without documentation and translations; so is this.
make_base() {
  buildah inspect --type image "localhost/$BASE" >/dev/null 2>&1 && return
  need debootstrap
  echo "image: making $BASE from Debian's packages (a minute or two, once)"
  root=$(mktemp -d) # not local: the trap reads it
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase "$BASE_RELEASE" "$root" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; exit 1; }
  # The same sources as this machine's, so that security updates come too.
  if grep -qs "$BASE_RELEASE-security" /etc/apt/sources.list.d/debian.sources; then
    cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/" && : >"$root/etc/apt/sources.list"
  fi
  printf 'path-exclude /usr/share/%s/*\n' doc info linda lintian locale man >"$root/etc/dpkg/dpkg.cfg.d/slim"
  printf 'path-include /usr/share/doc/*/copyright\n' >>"$root/etc/dpkg/dpkg.cfg.d/slim"
  printf 'APT::Install-Recommends "false";\n' >"$root/etc/apt/apt.conf.d/slim"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  chroot "$root" sh -ec 'apt-get -qq update && apt-get -qq --yes upgrade >/dev/null && apt-get clean'
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  find "$root/usr/share/doc" -type l -delete
  find "$root/usr/share/doc" -mindepth 1 -type d -empty -delete
  rm -rf "$root"/usr/share/{info,linda,lintian,locale,man}/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/var/cache/{apt,debconf}/*-old "$root"/var/cache/apt/*.bin "$root/etc/resolv.conf" "$root.log"
  local container
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$root" / >/dev/null
  buildah config --cmd bash "$container"
  buildah commit --quiet --rm "$container" "localhost/$BASE" >/dev/null
}

build() {
  if have_docker; then
    docker build --tag "$TAG" .
    docker image inspect --format '{{.Size}}' "$TAG" | awk '{ printf "image: %.0f MB unpacked (docker)\n", $1 / 1e6 }'
    return
  fi
  need buildah
  make_base
  local trust=()
  if [ -r "$BUNDLE" ]; then # a network that re-signs TLS is known to this machine, and must be to the build
    trust=(--volume "$BUNDLE:$BUNDLE_INSIDE:ro" --build-arg "PIP_CERT=$BUNDLE_INSIDE"
      --build-arg "NODE_EXTRA_CA_CERTS=$BUNDLE_INSIDE")
  fi
  # --format docker: the OCI format has no HEALTHCHECK.
  buildah build --isolation chroot --format docker --pull-never --layers "${trust[@]}" --tag "localhost/$TAG" .
  unpacked
}

unpacked() {
  in_tree 'du -sx --block-size=1 --apparent-size .' |
    awk '{ printf "image: %.0f MB unpacked (buildah; the sum of its files)\n", $1 / 1e6 }'
}

# Runs a shell line in the image's file tree, seen from outside.
in_tree() {
  local container tree
  container=$(buildah from --pull-never "localhost/$TAG")
  tree=$(buildah mount "$container")
  (cd "$tree" && bash -c "$1")
  buildah umount "$container" >/dev/null
  buildah rm "$container" >/dev/null
}

sizes() {
  local list='du -xh --max-depth=0 usr var app/.venv app/node_modules app &&
    du -xh --max-depth=1 app/node_modules app/.venv/lib/python3.*/site-packages | sort -rh | head -${ROWS:-16}'
  if have_docker; then
    docker run --rm --entrypoint sh "$TAG" -c "cd / && $list"
  else
    unpacked
    in_tree "$list"
  fi
}

demo() {
  if have_docker; then
    docker run --rm --read-only --tmpfs /tmp --cap-drop ALL "$TAG" wa-worker demo
    return
  fi
  local container code=0
  container=$(buildah from --pull-never "localhost/$TAG")
  # `buildah run` takes a command, not the image's entrypoint.
  buildah run --isolation chroot "$container" -- /usr/bin/tini -s -- wa-worker demo || code=$?
  buildah rm "$container" >/dev/null
  return $code
}

case ${1:-build} in
  build) build ;;
  sizes) sizes ;;
  demo) demo ;;
  *)
    sed -n '2,8s/^# \?//p' "$0" >&2
    exit 2
    ;;
esac
