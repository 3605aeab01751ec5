import { app } from "../../scripts/app.js";

/** The root graph; `app.graph` in frontends without subgraphs. */
export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** The node of a server's id: "12", or "7:12" for the node 12 inside the subgraph node 7. */
export function located(id) {
  const parts = String(id).split(":");
  const last = parts.pop();
  const inside = (outer, part) => outer?.getNodeById(part)?.subgraph;
  return parts.reduce(inside, rootGraph())?.getNodeById(last);
}

/** All nodes, those inside subgraphs too. */
export function* allNodes(graph = rootGraph(), seen = new Set([graph])) {
  for (const node of graph.nodes) {
    yield node;
    if (!node.subgraph || seen.has(node.subgraph)) continue;
    seen.add(node.subgraph);
    yield* allNodes(node.subgraph, seen);
  }
}
