"""What the gateway counts, in prometheus-client's default registry. Labels hold route templates, never raw paths."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("facewire_gateway_requests_total", "HTTP requests answered", ["method", "route", "status"])
CONNECTIONS_REFUSED = Counter("facewire_gateway_connections_refused_total", "Connections closed: too many were open")
CONNECTIONS_TIMED_OUT = Counter("facewire_gateway_connections_timed_out_total", "Connections closed: no request came")
SECONDS = Histogram(
    "facewire_gateway_request_seconds",
    "Time to answer an HTTP request, long polls included",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
ANSWERS = Counter("facewire_gateway_answers_total", "Answers drained, by what became of them", ["outcome"])
PUBLISHED = Counter("facewire_gateway_published_total", "Answers sent to cameras over MQTT, by outcome", ["outcome"])
HANDED_OVER = Counter(
    "facewire_gateway_handed_over_total", "Uploads that were due in the outbox, by outcome", ["outcome"]
)
LOST = Counter("facewire_gateway_lost_total", "Requests marked failed: lost at the answer deadline")
DEAD_LETTERS = Counter("facewire_gateway_dead_letters_total", "Messages given up that were drained")
SUBSCRIBERS = Gauge("facewire_gateway_event_subscribers", "Open event streams")
EVENTS_LOST = Counter("facewire_gateway_events_lost_total", "Events that left a slow subscriber unread")
