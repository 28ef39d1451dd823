package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
)

// metricsTimeout bounds a request for metrics.
const metricsTimeout = 5 * time.Second

// serveMetrics serves an agent's counters in Prometheus' text format.
func serveMetrics(address string, a *agent.Agent, r *migrate.Receiver) (stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		writeMetrics(w, a.Stats(), r.Stats())
	})
	server := &http.Server{Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout}
	go server.Serve(listener)
	return func() { server.Close() }, nil
}

func writeMetrics(w io.Writer, a agent.Stats, r migrate.ReceiverStats) {
	for _, m := range []struct {
		name, help string
		value      uint64
	}{
		{"connections_accepted_total", "Connections that were accepted.", a.Accepted},
		{"connections_evicted_total", "Connections that were put out of a full lobby.", a.Evicted},
		{"connections_unproved_total", "Connections that proved no trusted key.", a.Unproved},
		{"connections_refused_total", "Connections of trusted hosts that were refused.", a.Refused},
		{"sessions_total", "Control connections.", a.Sessions},
		{"data_connections_total", "Data connections.", a.DataConns},
		{"accept_errors_total", "Failures to accept a connection.", a.AcceptErrors},
		{"sandboxes_arrived_total", "Sandboxes that arrived and were started.", r.Arrived},
		{"migrations_failed_total", "Arriving migrations that ended without a start.", r.Failed},
		{"migrations_recovered_total", "Migrations away from here that were ended after their command.", r.Recovered},
	} {
		fmt.Fprintf(w, "# HELP sbxmigrate_%s %s\n# TYPE sbxmigrate_%s counter\nsbxmigrate_%s %d\n", m.name, m.help, m.name, m.name, m.value)
	}
}
