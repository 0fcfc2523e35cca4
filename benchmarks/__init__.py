"""`make bench`: Airfreight beside what people use today, over the same bytes and the same servers.

    make bench                              1 x 1 GiB and 4 x 1 GiB, five rounds; renews docs/benchmarks.md and its plot
    make bench BENCH_GIB=0.0625 BENCH_RUNS=1    does it still run? prints the table, records nothing

One hub stand-in and one real MinIO, both on loopback, serve every peer; in each round the peers take turns. A client
is measured from outside, by the kernel's own books, and the servers count the bytes.

    models                the bytes: random, valid safetensors, published in the hub stand-in's repository
    servers, bucket       hub, MinIO, and emptying MinIO between two measurements
    peers, upload, floor  what is compared: command lines, boto3 as people write it, and the machine's own limit
    measure, rounds       one measured command; all of them, interleaved
    tables, page, plot    medians and ratios, docs/benchmarks.md, docs/benchmarks.svg
    environment           the peers' programs, in their own places
"""
