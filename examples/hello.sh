#!/bin/sh
# tutti run --driver process -- ./examples/hello.sh you
name=$1
echo "Hello ${name:-whoever you are}, from $(uname -n)"
exit 3
