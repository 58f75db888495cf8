// Package export_carillon_plugin_sender is a device sender: it posts each message as JSON to an HTTP API, with a secret that it
// never sees, and says what each answer means.
package export_carillon_plugin_sender

import (
	"encoding/json"
	"fmt"
	"strconv"

	wit "go.bytecodealliance.org/pkg/wit/types"
	sending "wit_component/carillon_plugin_sending"
	types "wit_component/carillon_plugin_types"
)

type answer = wit.Result[sending.Progress, types.PluginError]

// What the API takes.
type message struct {
	ID      string `json:"id"`
	To      string `json:"to"`
	Text    string `json:"text"`
	Device  string `json:"device"`
	Attempt uint32 `json:"attempt"`
	From    string `json:"from,omitempty"`
}

// Start begins a send.
func Start(ctx types.Context, out sending.Outbound) answer {
	config := struct {
		URL     string  `json:"url"`
		Timeout float64 `json:"timeout_ms"`
	}{Timeout: 10_000}
	if err := json.Unmarshal([]byte(ctx.Config), &config); err != nil {
		return wit.Err[sending.Progress](types.MakePluginErrorInvalidConfig(err.Error()))
	}
	// A device's own settings.
	var adapter struct {
		From string `json:"from"`
	}
	if err := json.Unmarshal([]byte(out.Device.Adapter), &adapter); err != nil {
		return wit.Err[sending.Progress](types.MakePluginErrorInvalidInput("the device's settings cannot be read"))
	}
	body, err := json.Marshal(message{
		ID:      out.Message.Id,
		To:      out.Recipient.Address,
		Text:    out.Content.Text,
		Device:  out.Device.Id,
		Attempt: out.Message.Attempt,
		From:    adapter.From,
	})
	if err != nil {
		return wit.Err[sending.Progress](types.MakePluginErrorInternal(err.Error()))
	}
	return progress(sending.MakeStepRequest(sending.Round{Request: sending.HttpRequest{
		Method: "POST",
		Url:    config.URL,
		Headers: []wit.Tuple2[string, string]{
			{F0: "Content-Type", F1: "application/json"},
			{F0: "Authorization", F1: "Bearer {{secret:API_KEY}}"},
			{F0: "Idempotency-Key", F1: out.Message.Id},
		},
		Body:      sending.MakeBodyText(string(body)),
		TimeoutMs: config.Timeout,
	}}))
}

// Resume goes on with the answer to the request.
func Resume(_ types.Context, _ string, got sending.Answer) answer {
	switch got.Tag() {
	case sending.Answer_NotSent:
		// Nothing has left, so it is safe to try again.
		return done(sending.MakeOutcomeTransient(failure("not-sent", got.NotSent())))
	case sending.Answer_Unanswered:
		// It may have been sent: the campaign decides.
		return done(sending.MakeOutcomeUnknown(failure("unanswered", got.Unanswered())))
	default:
		return done(outcome(got.Response()))
	}
}

// What the API's answer means.
func outcome(response sending.HttpResponse) sending.Outcome {
	var said struct {
		ID    string `json:"id"`
		Error string `json:"error"`
	}
	if response.Body.Tag() == sending.Body_Text {
		// What cannot be read says nothing.
		_ = json.Unmarshal([]byte(response.Body.Text()), &said)
	}
	status := response.Status
	reason := failure(fmt.Sprintf("http-%d", status), fmt.Sprintf("the API answered %d", status))
	switch {
	case status >= 200 && status < 300:
		return sending.MakeOutcomeAccepted(sending.Acceptance{ProviderId: said.ID})
	case status == 429:
		pause := sending.Pause{Scope: sending.Scope_Device, DelayMs: retryAfterMs(response), Reason: reason}
		return sending.MakeOutcomeRetryAfter(pause)
	case status == 401 || status == 403:
		return sending.MakeOutcomeAccountBlocked(reason)
	case status >= 400 && status < 500:
		switch said.Error {
		case "unknown-recipient":
			return rejected(sending.RecipientProblem_Invalid, reason)
		case "blocked":
			return rejected(sending.RecipientProblem_Blocked, reason)
		case "opted-out":
			return sending.MakeOutcomeOptedOut(reason)
		}
	case status >= 500 && status < 600:
		return sending.MakeOutcomeTransient(reason)
	}
	return sending.MakeOutcomeContentRejected(reason)
}

// How long the API asks to wait: a minute if it does not say so in seconds.
func retryAfterMs(response sending.HttpResponse) float64 {
	for _, header := range response.Headers {
		if header.F0 == "retry-after" {
			if seconds, err := strconv.ParseUint(header.F1, 10, 32); err == nil {
				return float64(seconds) * 1000
			}
		}
	}
	return 60_000
}

func rejected(problem sending.RecipientProblem, reason sending.Failure) sending.Outcome {
	return sending.MakeOutcomeRecipientPermanent(sending.Rejection{Problem: problem, Reason: reason})
}

// No address, text or secret belongs in here.
func failure(code, detail string) sending.Failure {
	return sending.Failure{Code: code, Detail: detail}
}

func done(outcome sending.Outcome) answer {
	return progress(sending.MakeStepDone(outcome))
}

func progress(step sending.Step) answer {
	return wit.Ok[sending.Progress, types.PluginError](sending.Progress{Step: step, AccountState: wit.None[string]()})
}
