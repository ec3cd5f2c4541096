package bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TopologyConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Measure: Kafka Streams sums JSON records by key into a store with a changelog, until all of them are committed; or
 * by key and window.
 *
 * <p>Arguments are NAME=VALUE: topic, records, out (where the figures go), windows (their size in milliseconds; it goes by
 * the records' timestamps), and settings of Kafka Streams under its own
 * names. The figures are those of outcome.py; the sums are in the changelog.
 */
public final class Sums {
    record Order(String user, long amount, long at) {}

    private static final long LOOK_MS = 10;
    private static final AtomicLong firstAt = new AtomicLong();
    private static final LongAdder handled = new LongAdder();

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = new HashMap<>();
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            given.put(argument.substring(0, at), argument.substring(at + 1));
        }
        String topic = given.remove("topic");
        long records = Long.parseLong(given.remove("records"));
        Path out = Path.of(given.remove("out"));
        String windows = given.remove("windows");
        Properties settings = new Properties();
        settings.putAll(given);

        double begunAt = now();
        // The settings say as well what kind the store is of, so the builder has to know them.
        StreamsBuilder builder = new StreamsBuilder(new TopologyConfig(new StreamsConfig(settings)));
        KGroupedStream<String, Order> orders = builder.stream(topic, Consumed.with(Serdes.String(), orders()))
                .groupByKey(Grouped.with(Serdes.String(), orders()));
        if (windows == null) {
            orders.aggregate(
                    () -> 0L,
                    (user, order, total) -> {
                        handled.increment();
                        return total + order.amount();
                    },
                    Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("totals")
                            .withKeySerde(Serdes.String())
                            .withValueSerde(Serdes.Long()));
        } else {
            orders.windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMillis(Long.parseLong(windows))))
                    .aggregate(
                            () -> 0L,
                            (user, order, total) -> {
                                handled.increment();
                                return total + order.amount();
                            },
                            Materialized.<String, Long, WindowStore<Bytes, byte[]>>as("totals")
                                    .withKeySerde(Serdes.String())
                                    .withValueSerde(Serdes.Long())
                                    // The records are old, and the broker deletes what is older than this.
                                    .withRetention(Duration.ofDays(36_500)));
        }
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        double doneAt;
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", given.get("bootstrap.servers")))) {
            // The broker is asked at the end only, so that asking costs nothing before.
            while (handled.sum() < records || committed(admin, given.get("application.id")) < records) {
                if (failed.await(LOOK_MS, TimeUnit.MILLISECONDS)) {
                    System.exit(1);
                }
            }
            doneAt = now();
        }
        streams.close();
        write(out, records, begunAt, doneAt);
    }

    private static Serde<Order> orders() {
        ObjectReader reader = new ObjectMapper().readerFor(Order.class);
        Deserializer<Order> deserializer = (topic, bytes) -> {
            if (firstAt.get() == 0) {
                firstAt.compareAndSet(0, System.currentTimeMillis());
            }
            try {
                return reader.readValue(bytes);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        };
        return Serdes.serdeFrom((topic, order) -> {
            throw new UnsupportedOperationException("orders are only read");
        }, deserializer);
    }

    /** How many records the group has committed: its topic holds nothing else. */
    private static long committed(Admin admin, String group) throws Exception {
        return admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().values().stream()
                .mapToLong(OffsetAndMetadata::offset)
                .sum();
    }

    private static void write(Path out, long records, double begunAt, double doneAt) throws IOException {
        long peakBytes = Files.readAllLines(Path.of("/proc/self/status")).stream()
                .filter(line -> line.startsWith("VmHWM:"))
                .mapToLong(line -> 1024 * Long.parseLong(line.replaceAll("\\D", "")))
                .findFirst()
                .orElseThrow();
        Map<String, Object> figures = new HashMap<>();
        figures.put("records", records);
        figures.put("begun_at", begunAt);
        figures.put("first_at", firstAt.get() / 1000.0);
        figures.put("done_at", doneAt);
        figures.put("peak_bytes", peakBytes);
        figures.put("found", null);
        Path whole = out.resolveSibling(out.getFileName() + ".new");
        Files.write(whole, new ObjectMapper().writeValueAsBytes(figures));
        Files.move(whole, out, StandardCopyOption.ATOMIC_MOVE);
    }

    private static double now() {
        return System.currentTimeMillis() / 1000.0;
    }
}
