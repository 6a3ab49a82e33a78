# MinIO from source: upstream is archived and its image is gone from Docker Hub.
FROM golang:1.26 AS build
RUN CGO_ENABLED=0 go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

FROM alpine:3
COPY --from=build /go/bin/minio /usr/local/bin/minio
RUN adduser -D -H minio && mkdir /data && chown minio /data
USER minio
VOLUME /data
EXPOSE 9000
CMD ["minio", "server", "/data", "--address", ":9000"]
