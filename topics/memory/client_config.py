"""librdkafka's options: their names and the values that they take, from its CONFIGURATION.md (2.16)."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaError

from .failure import failure

__all__ = ["ClientConfig"]

_NUMBERS = """
acks=-1..1000 api.version.fallback.ms=0..604800000 api.version.request.timeout.ms=1..300000
auto.commit.interval.ms=0..86400000 batch.num.messages=1..1000000 batch.size=1..2147483647
broker.address.ttl=0..86400000 compression.level=-1..12 connections.max.idle.ms=0..2147483647
consume.callback.max.messages=0..1000000 coordinator.query.interval.ms=1..3600000 delivery.timeout.ms=0..2147483647
enabled_events=0..2147483647 fetch.error.backoff.ms=0..300000 fetch.max.bytes=0..2147483135
fetch.message.max.bytes=1..1000000000 fetch.min.bytes=0..2147483647 fetch.queue.backoff.ms=0..300000
fetch.wait.max.ms=0..300000 heartbeat.interval.ms=1..3600000 internal.termination.signal=0..128 linger.ms=0..900000
log_level=0..7 max.in.flight.requests.per.connection=1..1000000 max.in.flight=1..1000000
max.partition.fetch.bytes=1..1000000000 max.poll.interval.ms=1..86400000 max.poll.records=1..2147483647
message.copy.max.bytes=0..1000000000 message.max.bytes=1000..1000000000 message.send.max.retries=0..2147483647
message.timeout.ms=0..2147483647 metadata.max.age.ms=1..86400000
metadata.recovery.rebootstrap.trigger.ms=0..2147483647 offset.store.sync.interval.ms=-1..86400000
queue.buffering.backpressure.threshold=1..1000000 queue.buffering.max.kbytes=1..2147483647
queue.buffering.max.messages=0..2147483647 queue.buffering.max.ms=0..900000 queued.max.messages.kbytes=1..2097151
queued.min.messages=1..10000000 receive.message.max.bytes=1000..2147483647 reconnect.backoff.jitter.ms=0..3600000
reconnect.backoff.max.ms=0..3600000 reconnect.backoff.ms=0..3600000 request.required.acks=-1..1000
request.timeout.ms=1..900000 retries=0..2147483647 retry.backoff.max.ms=1..300000 retry.backoff.ms=1..300000
sasl.kerberos.min.time.before.relogin=0..86400000 sasl.oauthbearer.assertion.claim.exp.seconds=1..2147483647
sasl.oauthbearer.assertion.claim.nbf.seconds=0..2147483647 session.timeout.ms=1..3600000
socket.blocking.max.ms=1..60000 socket.connection.setup.timeout.ms=1000..2147483647 socket.max.fails=0..1000000
socket.receive.buffer.bytes=0..100000000 socket.send.buffer.bytes=0..100000000 socket.timeout.ms=10..300000
statistics.interval.ms=0..86400000 sticky.partitioning.linger.ms=0..900000
topic.metadata.propagation.max.ms=0..3600000 topic.metadata.refresh.fast.cnt=0..1000
topic.metadata.refresh.fast.interval.ms=1..60000 topic.metadata.refresh.interval.ms=-1..3600000
transaction.timeout.ms=1000..2147483647
"""

_CHOICES = """
auto.offset.reset=smallest|earliest|beginning|largest|latest|end|error broker.address.family=any|v4|v6
client.dns.lookup=use_all_dns_ips|resolve_canonical_bootstrap_servers_only
compression.codec=none|gzip|snappy|lz4|zstd compression.type=none|gzip|snappy|lz4|zstd
group.protocol=classic|consumer isolation.level=read_uncommitted|read_committed
metadata.recovery.strategy=none|rebootstrap offset.store.method=none|file|broker queuing.strategy=fifo|lifo
sasl.oauthbearer.assertion.algorithm=RS256|ES256
sasl.oauthbearer.grant.type=client_credentials|urn:ietf:params:oauth:grant-type:jwt-bearer
sasl.oauthbearer.metadata.authentication.type=none|azure_imds|aws_iam sasl.oauthbearer.method=default|oidc
security.protocol=plaintext|ssl|sasl_plaintext|sasl_ssl ssl.endpoint.identification.algorithm=none|https
"""

_SWITCHES = """
allow.auto.create.topics api.version.request auto.commit.enable check.crcs delivery.report.only.error
enable.auto.commit enable.auto.offset.store enable.gapless.guarantee enable.idempotence enable.metrics.push
enable.partition.eof enable.random.seed enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification
log.connection.close log.queue log.thread.name produce.offset.report sasl.oauthbearer.assertion.claim.jti.include
socket.keepalive.enable socket.nagle.disable topic.metadata.refresh.sparse
"""

_TEXTS = """
bootstrap.servers broker.version.fallback builtin.features client.id client.rack debug group.id group.instance.id
group.protocol.type group.remote.assignor https.ca.location https.ca.pem metadata.broker.list offset.store.path
partition.assignment.strategy partitioner plugin.library.paths sasl.kerberos.keytab sasl.kerberos.kinit.cmd
sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism sasl.mechanisms
sasl.oauthbearer.assertion.claim.aud sasl.oauthbearer.assertion.claim.iss sasl.oauthbearer.assertion.claim.sub
sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.credentials.client.id
sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.id sasl.oauthbearer.client.secret
sasl.oauthbearer.config sasl.oauthbearer.extensions sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name
sasl.oauthbearer.token.endpoint.url sasl.password sasl.username share.acknowledgement.mode ssl.ca.certificate.stores
ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.cipher.suites ssl.crl.location
ssl.curves.list ssl.engine.id ssl.engine.location ssl.key.location ssl.key.password ssl.key.pem
ssl.keystore.location ssl.keystore.password ssl.providers ssl.sigalgs.list topic.blacklist transactional.id
"""

_RANGES: dict[str, tuple[int, int]] = {}
for _item in _NUMBERS.split():
    _name, _, _range = _item.partition("=")
    _low, _, _high = _range.partition("..")
    _RANGES[_name] = int(_low), int(_high)
_ALLOWED = {
    **{name: allowed.lower().split("|") for name, _, allowed in (item.partition("=") for item in _CHOICES.split())},
    **{name: ["true", "false"] for name in _SWITCHES.split()},
}
_FREE = frozenset(_TEXTS.split())

# Callbacks and objects of the binding's own.
_BINDING = frozenset({"logger", "on_commit", "on_delivery", "plain.username", "default.topic.config"})


class ClientConfig:
    """A client's configuration, under librdkafka's dotted names.

    Raises:
        KafkaException: librdkafka has no such option, or it does not take such a value.
    """

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = options
        for name, value in options.items():
            if not (name.endswith("_cb") or name in _BINDING or value is None):
                _check(name, value)

    def get(self, name: str) -> object:
        """Return an option as it was given; None if it was not."""
        return self._options.get(name)

    def text(self, name: str) -> str | None:
        """Return an option as text; None if it is empty or was not given."""
        value = self._options.get(name)
        return None if value is None or value == "" else str(value)

    def number(self, name: str, default: int) -> int:
        """Return an option as a number."""
        return int(float(str(self._options.get(name, default))))

    def flag(self, name: str, *, default: bool) -> bool:
        """Return whether an option is on."""
        return str(self._options.get(name, default)).lower() == "true"


def _check(name: str, value: object) -> None:
    said = str(value).lower() if isinstance(value, bool) else str(value)
    if said == "all" and name in ("acks", "request.required.acks"):
        return
    if name in _RANGES:
        low, high = _RANGES[name]
        try:
            number = float(said)
        except ValueError:
            raise _invalid(f'Invalid value "{said}" for configuration property "{name}"') from None
        if not low <= number <= high:
            raise _invalid(f'Configuration property "{name}" value {said} is outside allowed range {low}..{high}')
    elif name in _ALLOWED:
        if said.lower() not in _ALLOWED[name]:
            raise _invalid(f'Invalid value "{said}" for configuration property "{name}"')
    elif name not in _FREE:
        raise _invalid(f'No such configuration property: "{name}"')


def _invalid(text: str) -> Exception:
    return failure(KafkaError._INVALID_ARG, text)  # pyright: ignore[reportPrivateUsage]
