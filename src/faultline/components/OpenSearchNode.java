import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import org.opensearch.cluster.node.DiscoveryNodes;
import org.opensearch.cluster.service.ClusterService;
import org.opensearch.common.logging.LogConfigurator;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.Plugin;

/**
 * One real OpenSearch node in the foreground, with the modules that the distribution has on its class path.
 *
 * <p>Takes settings as {@code key=value}; ends on SIGTERM, with what it was told on disk. The distribution's own main
 * class wants a folder layout, a security manager and a user who is not root; this one wants none of them.
 */
public final class OpenSearchNode extends Node {
    private static final List<Class<? extends Plugin>> MODULES = List.of(
            org.opensearch.analysis.common.CommonAnalysisPlugin.class,
            org.opensearch.geo.GeoModulePlugin.class,
            org.opensearch.index.mapper.MapperExtrasPlugin.class,
            org.opensearch.index.rankeval.RankEvalPlugin.class,
            org.opensearch.index.reindex.ReindexPlugin.class,
            org.opensearch.ingest.common.IngestCommonPlugin.class,
            org.opensearch.ingest.useragent.IngestUserAgentPlugin.class,
            org.opensearch.join.ParentJoinPlugin.class,
            org.opensearch.painless.PainlessPlugin.class,
            org.opensearch.percolator.PercolatorPlugin.class,
            org.opensearch.plugin.repository.url.URLRepositoryPlugin.class,
            org.opensearch.script.expression.ExpressionPlugin.class,
            org.opensearch.script.mustache.MustachePlugin.class,
            org.opensearch.search.aggregations.matrix.MatrixAggregationPlugin.class,
            org.opensearch.transport.Netty4Plugin.class);

    private OpenSearchNode(Environment environment) {
        super(environment, MODULES, false);
    }

    public static void main(String[] arguments) throws Exception {
        Settings.Builder settings = Settings.builder();
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            settings.put(pair[0], pair[1]);
        }
        Environment environment =
                InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), null, () -> "node");
        LogConfigurator.setNodeName(environment.settings().get("node.name"));

        OpenSearchNode node = new OpenSearchNode(environment);
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception error) {
                error.printStackTrace();
            } finally {
                closed.countDown();
            }
        }));
        node.start();

        Path seeds = environment.configFile().resolve("unicast_hosts.txt");
        ClusterService cluster = node.injector().getInstance(ClusterService.class);
        cluster.addListener(event -> remember(event.state().nodes(), seeds));
        remember(cluster.state().nodes(), seeds);
        closed.await();
    }

    /**
     * Keeps the addresses of all nodes that were ever seen where discovery looks for them.
     *
     * <p>A node knows its peers only while it runs. One that comes back would not find a cluster that does without it.
     */
    private static synchronized void remember(DiscoveryNodes nodes, Path seeds) {
        try {
            Set<String> known = new TreeSet<>(Files.exists(seeds) ? Files.readAllLines(seeds) : List.of());
            boolean changed = false;
            for (var node : nodes) {
                changed |= known.add(node.getAddress().toString());
            }
            if (changed) {
                Path draft = seeds.resolveSibling("unicast_hosts.draft");
                Files.write(draft, known);
                Files.move(draft, seeds, StandardCopyOption.ATOMIC_MOVE);
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
