package bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * Measure: Flink sums JSON records by key, or by key and window, in state on the heap with checkpoints. A job in this
 * Java reads the topic up to its end as it is now, and writes each sum once to another topic, in transactions of its
 * checkpoints: of a key at the end, of a key and window when the window closes.
 *
 * <p>Arguments are NAME=VALUE: topic, records, out (where the figures go), brokers, to (the topic of the sums), windows
 * (their size in milliseconds; it goes by the records' timestamps), and settings of Flink and, after "sink.", of the
 * producer under their own names. The figures are those of outcome.py. They end when the job does: its last transaction
 * is committed.
 */
public final class FlinkSums {
    public record Order(String user, long amount, long at) {}

    private static final TypeInformation<Tuple2<String, Long>> SUM =
            TypeInformation.of(new TypeHint<Tuple2<String, Long>>() {});
    private static final AtomicLong firstAt = new AtomicLong();

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = new HashMap<>();
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            given.put(argument.substring(0, at), argument.substring(at + 1));
        }
        String topic = given.remove("topic");
        long records = Long.parseLong(given.remove("records"));
        Path out = Path.of(given.remove("out"));
        String brokers = given.remove("brokers");
        String to = given.remove("to");
        String windows = given.remove("windows");
        Properties sink = new Properties();
        Map<String, String> settings = new HashMap<>();
        given.forEach((name, value) -> {
            if (name.startsWith("sink.")) {
                sink.put(name.substring("sink.".length()), value);
            } else {
                settings.put(name, value);
            }
        });

        double begunAt = now();
        StreamExecutionEnvironment job =
                StreamExecutionEnvironment.getExecutionEnvironment(Configuration.fromMap(settings));
        KafkaSource<Tuple2<String, Long>> source = KafkaSource.<Tuple2<String, Long>>builder()
                .setBootstrapServers(brokers)
                .setTopics(topic)
                .setGroupId(to)
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setBounded(OffsetsInitializer.latest())
                .setDeserializer(new Orders())
                .build();
        // Records of a partition are in order, and the source keeps a watermark for each partition.
        WatermarkStrategy<Tuple2<String, Long>> times = windows == null
                ? WatermarkStrategy.noWatermarks()
                : WatermarkStrategy.<Tuple2<String, Long>>forMonotonousTimestamps();
        KeyedStream<Tuple2<String, Long>, String> byUser =
                job.fromSource(source, times, "orders").keyBy(order -> order.f0, Types.STRING);
        DataStream<Tuple2<String, Long>> sums = windows == null
                ? byUser.transform("sum", SUM, new ByKey())
                : byUser.window(TumblingEventTimeWindows.of(Duration.ofMillis(Long.parseLong(windows))))
                        .aggregate(new Sum(), new WithStart());
        sums.sinkTo(sink(brokers, to, sink));
        job.execute(to);
        write(out, records, begunAt, now());
    }

    private static Sink<Tuple2<String, Long>> sink(String brokers, String to, Properties settings) {
        return KafkaSink.<Tuple2<String, Long>>builder()
                .setBootstrapServers(brokers)
                .setKafkaProducerConfig(settings)
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix(to)
                .setRecordSerializer((KafkaRecordSerializationSchema<Tuple2<String, Long>>)
                        (sum, context, timestamp) -> new ProducerRecord<>(to, bytes(sum.f0), bytes(sum.f1.toString())))
                .build();
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static final class Orders implements KafkaRecordDeserializationSchema<Tuple2<String, Long>> {
        private transient ObjectReader reader;

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<String, Long>> out)
                throws IOException {
            if (reader == null) {
                reader = new ObjectMapper().readerFor(Order.class);
                firstAt.compareAndSet(0, System.currentTimeMillis());
            }
            Order order = reader.readValue(record.value());
            out.collect(Tuple2.of(order.user(), order.amount()));
        }

        @Override
        public TypeInformation<Tuple2<String, Long>> getProducedType() {
            return SUM;
        }
    }

    /** Keeps a sum for each key, and hands them on at the end of the input. */
    private static final class ByKey extends AbstractStreamOperator<Tuple2<String, Long>>
            implements OneInputStreamOperator<Tuple2<String, Long>, Tuple2<String, Long>>, BoundedOneInput {
        private transient ValueState<Long> total;

        @Override
        public void open() throws Exception {
            super.open();
            total = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Types.LONG));
        }

        @Override
        public void processElement(StreamRecord<Tuple2<String, Long>> record) throws IOException {
            Long before = total.value();
            long amount = record.getValue().f1;
            total.update(before == null ? amount : before + amount);
        }

        @Override
        public void endInput() throws IOException {
            KeyedStateBackend<String> state = getKeyedStateBackend();
            List<String> users = state.getKeys("total", VoidNamespace.INSTANCE).toList();
            for (String user : users) {
                setCurrentKey(user);
                output.collect(new StreamRecord<>(Tuple2.of(user, total.value())));
            }
        }
    }

    private static final class Sum implements AggregateFunction<Tuple2<String, Long>, Long, Long> {
        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(Tuple2<String, Long> order, Long total) {
            return total + order.f1;
        }

        @Override
        public Long getResult(Long total) {
            return total;
        }

        @Override
        public Long merge(Long one, Long other) {
            return one + other;
        }
    }

    private static final class WithStart
            extends ProcessWindowFunction<Long, Tuple2<String, Long>, String, TimeWindow> {
        @Override
        public void process(String user, Context context, Iterable<Long> sums, Collector<Tuple2<String, Long>> out) {
            out.collect(Tuple2.of(user + "@" + context.window().getStart(), sums.iterator().next()));
        }
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
