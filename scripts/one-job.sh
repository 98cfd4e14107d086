#!/bin/sh
# One job through the hands of a runner, by hand: section 12 of the runner protocol, each call one curl.
#
#   URL=http://localhost:8000 REG=cvreg_… sh scripts/one-job.sh
#
# REG is a registration token (`npm run runner-token`, or POST /api/v1/runners/tokens by an admin). It registers this machine,
# waits until a job of its FRAMEWORK is started, reports one epoch, a log and the end, and says what it did.
set -eu
A="$URL/api/v1/internal"
J='content-type: application/json'
FRAMEWORK=${FRAMEWORK:-timm}
MACHINE=${MACHINE:-one-job}

# Prints the answer's body. When the status is not 2xx the script ends with the server's own words.
call() {
  ANSWER=$(curl -sS --fail-with-body "$@") || { echo "one-job: $ANSWER" >&2; exit 1; }
  [ -z "$ANSWER" ] || echo "$ANSWER"
}
# A text or a number of a flat JSON answer.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

REGISTERED=$(call "$A/runners/register" -H "authorization: Bearer $REG" -H "$J" \
  -d "{\"machine_id\":\"$MACHINE\",\"name\":\"$MACHINE\",\"frameworks\":[\"$FRAMEWORK\"],\"slots\":1,\"protocol\":1}")
RUNNER=$(echo "$REGISTERED" | field runner_token)
echo "registered as $MACHINE"

OFFER=
while [ -z "$OFFER" ]; do # nothing within the wait is 204 without a body: ask again
  OFFER=$(call "$A/runners/claim" -H "authorization: Bearer $RUNNER" -H "$J" -d '{"instance_id":"i1","free_slots":1,"wait_s":25}')
done
JOB=$(echo "$OFFER" | field job_id)
FENCE=$(echo "$OFFER" | field fence)
echo "offered job $JOB, fence $FENCE"

ACCEPTED=$(call "$A/jobs/$JOB/accept" -H "authorization: Bearer $RUNNER" -H "$J" -d "{\"fence\":$FENCE}")
TOKEN=$(echo "$ACCEPTED" | field job_token)
echo "accepted"

call "$A/jobs/$JOB/heartbeat" -H "authorization: Bearer $TOKEN" -H "$J" -d '{"outbox":0}'
call "$A/training/callback" -H "authorization: Bearer $TOKEN" -H "$J" \
  -d "{\"job_id\":$JOB,\"events\":[{\"seq\":1,\"event\":\"epoch_complete\",\"data\":{\"epoch\":1,\"loss\":0.45}}]}"
printf 'epoch 1, loss 0.45\n' | call -X PUT "$A/jobs/$JOB/logs/stdout/1" -H "authorization: Bearer $TOKEN" --data-binary @-
call "$A/training/callback" -H "authorization: Bearer $TOKEN" -H "$J" \
  -d "{\"job_id\":$JOB,\"seq\":2,\"event\":\"completed\",\"data\":{\"exit_code\":0,\"log_chunks\":{\"stdout\":1,\"stderr\":0}}}"
call "$A/runners/offline" -H "authorization: Bearer $RUNNER" -H "$J" -d '{"instance_id":"i1"}'
echo "job $JOB is done"
