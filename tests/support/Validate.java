import com.pixelmed.dicom.AttributeList;
import com.pixelmed.validate.DicomSRValidator;
import java.util.Scanner;

/** PixelMed's validator over the files named on standard input: its own main takes one at a time,
 *  and compiling its rules takes ten seconds. Before what it says of a file stands "== " and name. */
public class Validate {
    public static void main(String[] arguments) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        Scanner files = new Scanner(System.in, "UTF-8");
        while (files.hasNextLine()) {
            String file = files.nextLine();
            AttributeList list = new AttributeList();
            list.read(file);
            System.out.println("== " + file);
            System.out.println(validator.validate(list));
        }
    }
}
