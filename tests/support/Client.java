// A client as Java's users write one, with nothing but the JDK: posts a batch, then lists what is stored.
// It prints the status of each response, and the times of receipt as instants.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Instant;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.regex.Pattern;

public class Client {
    public static void main(String[] arguments) throws Exception {
        URI events = URI.create(arguments[0] + "/api/v1/events");
        String key = arguments[1];
        String batch = arguments[2];
        HttpClient client = HttpClient.newHttpClient();

        HttpRequest.Builder request = HttpRequest.newBuilder(events)
            .header("Content-Type", "application/json")
            .header("X-API-Key", key);
        for (HttpRequest sent : new HttpRequest[] {request.POST(BodyPublishers.ofString(batch)).build(), request.GET().build()}) {
            HttpResponse<String> response = client.send(sent, BodyHandlers.ofString());
            System.out.println(response.statusCode());
            var times = Pattern.compile("\"received_at\":\"([^\"]*)\"").matcher(response.body());
            while (times.find()) {
                String receivedAt = times.group(1);
                Instant instant = LocalDateTime.parse(receivedAt).toInstant(ZoneOffset.UTC);
                System.out.println(instant);
            }
        }
    }
}
