package store

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"time"
)

// refusal returns why the servers refuse our certificate or we theirs; nil if they
// do not, or do not answer.
func (c *Client) refusal() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.probe(ctx); errors.Is(err, ErrDenied) {
		return err
	}
	return nil
}

// probe returns nil as soon as one endpoint answers, else what is wrong with one of
// them, a refusal first. Etcd's client retries a refused handshake until its deadline
// and then names only the deadline; one handshake of our own tells at once.
func (c *Client) probe(ctx context.Context) error {
	ctx, cancel := withDeadline(ctx, c.timeout)
	defer cancel()
	endpoints := c.etcd.Endpoints()
	answers := make(chan error, len(endpoints))
	for _, endpoint := range endpoints {
		go func() { answers <- c.shakeHands(ctx, endpoint) }()
	}
	var worst error
	for range endpoints {
		err := <-answers
		if err == nil {
			return nil
		}
		if worst == nil || errors.Is(err, ErrDenied) {
			worst = err
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return worst
}

// shakeHands opens a connection as HTTP/2 does and waits for the server's first
// byte: in TLS 1.3 a server refuses a client's certificate only after the client
// believes the handshake done.
func (c *Client) shakeHands(ctx context.Context, endpoint string) error {
	network, address := "tcp", endpoint
	if u, err := url.Parse(endpoint); err == nil && u.Host+u.Path != "" {
		if address = u.Host; u.Host == "" {
			network, address = "unix", u.Path
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return unreachable(endpoint, err)
	}
	defer conn.Close()
	if c.tls == nil {
		return nil
	}
	config := c.tls.Clone()
	config.NextProtos = []string{"h2"}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	secure := tls.Client(conn, config)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // and empty settings
	_, err = io.WriteString(secure, preface)
	if err == nil {
		_, err = secure.Read(make([]byte, 1))
	}
	switch {
	case err == nil:
		return nil
	case refused(err):
		return denied(endpoint, "no trust between our certificates: "+err.Error())
	}
	return unreachable(endpoint, err)
}

// refused reports whether one side said no to the other's certificate; anything else,
// a server that stops in the middle say, is no answer.
func refused(err error) bool {
	var ours *tls.CertificateVerificationError
	var alert *net.OpError
	return errors.As(err, &ours) || errors.As(err, &alert) && alert.Op == "remote error"
}
