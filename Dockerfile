# Two images without a shell, a package manager, or anything else that is not the program itself.
#   make images           builds both with buildah, podman or docker from static binaries that cargo made
# The context is target/images/context, which images/build.sh fills: a folder per image that holds its whole file system.
# There is no builder stage: the binaries need nothing of an image, not even a C library (docs/decisions/0008).

# The operator.
FROM scratch AS quorate
COPY quorate/ /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/quorate"]
CMD ["operator"]

# A member. Called as etcd, etcdctl or etcdutl it is that program, at the paths of etcd's own image.
FROM scratch AS quorate-server
COPY quorate-server/ /
ENV PATH=/usr/local/bin
USER 65532:65532
WORKDIR /var/lib/etcd
EXPOSE 2379 2380 2381
ENTRYPOINT ["/usr/local/bin/quorate-server"]
