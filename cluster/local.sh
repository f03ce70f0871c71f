#!/usr/bin/env bash
# A Ray head on this machine, on loopback and closed by a token, for `monosem submit`.
#   cluster/local.sh            start        cluster/local.sh stop        stop
set -euo pipefail
cd "$(dirname "$0")/.."
ray=.venv/bin/ray
[ -x "$ray" ] || ray=ray
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

if [ "${1:-start}" = stop ]; then
    exec "$ray" stop
fi
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -e "$HOME/.ray/auth_token" ]; then
    (umask 077 && "$ray" get-auth-token --generate > /dev/null)
fi
[ ! -e "$HOME/.ray/auth_token" ] || chmod 600 "$HOME/.ray/auth_token"
"$ray" start --head --node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1 --dashboard-port=8265 --disable-usage-stats
echo "monosem submit jobs/quickstart.yaml --address http://127.0.0.1:8265 --wait"
