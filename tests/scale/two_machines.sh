#!/usr/bin/env bash
# In a network namespace of its own: a second one, a virtual cable between them, and torchrun on both ends.
# Arguments: a Python interpreter and the folder of the run. Ends with 77 where namespaces are not allowed.
python=$1 run=$2
ip netns add fourfold-b 2>/dev/null || { mount -t tmpfs none /run && ip netns add fourfold-b; } || exit 77
ip link add cable-a type veth peer name cable-b || exit 77
ip link set cable-b netns fourfold-b || exit 77
ip addr add 10.77.0.1/24 dev cable-a && ip link set cable-a up && ip link set lo up || exit 77
ip netns exec fourfold-b ip addr add 10.77.0.2/24 dev cable-b || exit 77
ip netns exec fourfold-b ip link set cable-b up && ip netns exec fourfold-b ip link set lo up
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" FOURFOLD_RUNS=$(dirname "$run")
launch=(-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400
  --rdzv-id two)
fit=(-m fourfold fit gan --steps 4 --width 4 --noise-size 4 --out "$run")
GLOO_SOCKET_IFNAME=cable-b ip netns exec fourfold-b "$python" "${launch[@]}" --local-addr 10.77.0.2 \
  --rdzv-conf is_host=false "${fit[@]}" & other=$!
GLOO_SOCKET_IFNAME=cable-a "$python" "${launch[@]}" --local-addr 10.77.0.1 --rdzv-conf is_host=true "${fit[@]}"
code=$?
wait $other || code=$?
exit $code
