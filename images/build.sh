#!/usr/bin/env bash
# Builds both images: static binaries, their file systems, and an archive of each.
#   images/build.sh [DIR]     DIR/quorate.tar is localhost/quorate:dev, DIR/quorate-server.tar localhost/quorate-server:dev
# Environment: PROFILE (release; dev builds sooner), BUILDER (buildah, podman or docker; the first that is there),
# CA_BUNDLE (PEM file with the public authorities; Debian's package ca-certificates when absent), TAG (dev).
# Fails when an image holds a file that images/contents.txt does not list, or lacks one that it does.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "${1:-$root/target/images}" && cd "${1:-$root/target/images}" && pwd)
profile=${PROFILE:-release}
tag=${TAG:-dev}

builder=${BUILDER:-}
if [ -z "$builder" ]; then
  for builder in buildah podman docker ''; do [ -z "$builder" ] || ! command -v "$builder" > /dev/null || break; done
fi
[ -n "$builder" ] || { echo "images/build.sh: install buildah, podman or docker, or name one in BUILDER" >&2; exit 1; }

# Only the last step, linking, has to know that the C library is to be inside: everything before is what any other build of
# the profile has made already.
cd "$root"
for program in quorate:quorate server:quorate-server; do
  cargo rustc --profile "$profile" -p "${program%:*}" --bin "${program#*:}" -- -C target-feature=+crt-static
done
built=${CARGO_TARGET_DIR:-$root/target}/$([ "$profile" = dev ] && echo debug || echo "$profile")

authorities=${CA_BUNDLE:-}
context=$out/context
rm -rf "$context"
for image in quorate quorate-server; do
  mkdir -p "$context/$image"/{etc,usr/local/bin}
  install -m 0755 "$built/$image" "$context/$image/usr/local/bin/"
  [ "$profile" = release ] || strip -g "$context/$image/usr/local/bin/$image"
  if readelf -lW "$context/$image/usr/local/bin/$image" | grep -q INTERP; then
    echo "images/build.sh: $image asks for a loader that the image does not have: it is not static" >&2
    exit 1
  fi
  install -m 0644 images/passwd images/group images/nsswitch.conf "$context/$image/etc/"
done
for name in etcd etcdctl etcdutl; do ln -s quorate-server "$context/quorate-server/usr/local/bin/$name"; done
mkdir -p "$context/quorate-server/var/lib/etcd" "$context/quorate/etc/ssl/certs"
chmod 0777 "$context/quorate-server/var/lib/etcd"
if [ -n "$authorities" ]; then
  install -m 0644 "$authorities" "$context/quorate/etc/ssl/certs/ca-certificates.crt"
else
  # Mozilla's authorities as Debian ships them, without those that this machine has added.
  ls /usr/share/ca-certificates/mozilla/*.crt > /dev/null ||
    { echo "images/build.sh: name a PEM file with the public authorities in CA_BUNDLE, or install ca-certificates" >&2; exit 1; }
  cat /usr/share/ca-certificates/mozilla/*.crt > "$context/quorate/etc/ssl/certs/ca-certificates.crt"
  chmod 0644 "$context/quorate/etc/ssl/certs/ca-certificates.crt"
fi

for image in quorate quorate-server; do
  name=localhost/$image:$tag
  rm -f "$out/$image.tar"
  case $builder in
    *buildah)
      "$builder" bud --isolation chroot --timestamp 0 -q --target "$image" -t "$name" -f Dockerfile "$context" > /dev/null
      "$builder" push -q "$name" "docker-archive:$out/$image.tar:$name"
      ;;
    *) "$builder" build -q --target "$image" -t "$name" -f Dockerfile "$context" > /dev/null && "$builder" save -o "$out/$image.tar" "$name" ;;
  esac
  listed=$(sed -n "s#^$image: ##p" images/contents.txt | sort)
  # Both layouts of archives: a layer is a .tar, or a file that the manifest names.
  held=$(tar -xOf "$out/$image.tar" manifest.json | grep -oE '"[^"]*"' | tr -d '"' | sort -u |
    while read -r layer; do tar -tf "$out/$image.tar" "$layer" > /dev/null 2>&1 && tar -xOf "$out/$image.tar" "$layer" 2> /dev/null | tar -tf - 2> /dev/null || true; done |
    grep -v '/$' | sort -u || true)
  if [ "$listed" != "$held" ]; then
    echo "images/build.sh: $name does not hold what images/contents.txt lists (<: listed, >: held):" >&2
    diff <(echo "$listed") <(echo "$held") >&2 || true
    exit 1
  fi
  echo "$name: $(stat -c %s "$out/$image.tar" | numfmt --to=iec-i --suffix=B) in $out/$image.tar," \
    "the program $(stat -c %s "$context/$image/usr/local/bin/$image" | numfmt --to=iec-i --suffix=B), $(echo "$held" | wc -l) files"
done
